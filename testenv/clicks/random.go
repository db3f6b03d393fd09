package clicks

import "math/bits"

// random is 64 random bits.
type random uint64

// mix is the output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection that makes random bits of a counter.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// below is a number from 0 to n-1.
func (r random) below(n uint64) uint64 {
	high, _ := bits.Mul64(uint64(r), n)
	return high
}

// zipf draws ranks 1, 2 ... with probabilities in the ratio 1/(shift+rank): Zipf's law with exponent 1, and Mandelbrot's shift
// for a less extreme head. It computes with whole numbers only, so that every machine draws the same.
type zipf struct {
	shift, last  uint64
	low, octaves uint64
}

func newZipf(shift, ranks int) zipf {
	z := zipf{shift: uint64(shift), last: uint64(shift + ranks)}
	z.low = uint64(bits.Len64(z.shift+1)) - 1
	z.octaves = uint64(bits.Len64(z.last)) - z.low
	return z
}

// draw picks an octave [2^o, 2^(o+1)), as 1/x has the same weight in each, then x within it evenly, and accepts it with
// probability 2^o/x.
func (z zipf) draw(r random) uint64 {
	for {
		first := uint64(1) << (z.low + r.below(z.octaves))
		r = random(mix(uint64(r)))
		x := first + r.below(first)
		r = random(mix(uint64(r)))
		if x > z.shift && x <= z.last && r.below(x) < first {
			return x - z.shift
		}
		r = random(mix(uint64(r)))
	}
}
