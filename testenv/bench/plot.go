package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Colors of the diagrams in docs/design.
const (
	ink, grey, line = "#0A0F25", "#676C7E", "#CFD2DD"
	dark, pale      = "#0D32B2", "#C7D3FB"
)

// svg writes shapes one after the other. Coordinates are pixels, from the upper left.
type svg struct{ strings.Builder }

func (s *svg) rect(x, y, w, h float64, fill string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, fill)
}

func (s *svg) path(points [][2]float64, style string) {
	for i, p := range points {
		fmt.Fprintf(s, "%s%.1f %.1f", map[bool]string{true: `<path fill="none" d="M`, false: " L"}[i == 0], p[0], p[1])
	}
	fmt.Fprintf(s, `" %s/>`+"\n", style)
}

// text puts one line; anchor is start, middle or end.
func (s *svg) text(x, y float64, anchor, style, format string, args ...any) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, fmt.Sprintf(format, args...))
}

// freshPlot is a histogram of latencies and how many are below each: its page is docs/performance.md.
func freshPlot(all []time.Duration) []byte {
	const (
		width, height            = 860.0, 420.0
		left, right, top, bottom = 64.0, 796.0, 70.0, 356.0
		bins                     = 80
	)
	all = slices.Clone(all)
	slices.Sort(all)
	p50, p99 := percentile(all, 50), percentile(all, 99)
	end := math.Ceil(max(ms(freshBar), ms(p99))*1.1/50) * 50
	x := func(v float64) float64 { return left + (right-left)*min(v, end)/end }
	y := func(share float64) float64 { return bottom - (bottom-top)*share }
	counts := make([]int, bins)
	for _, d := range all {
		counts[min(bins-1, int(ms(d)/end*bins))]++
	}
	most := float64(slices.Max(counts))

	s := new(svg)
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %v %v" font-family="sans-serif" font-size="13">`+"\n", width, height)
	s.rect(0, 0, width, height, "#FFFFFF")
	small, loud := fmt.Sprintf(`fill="%s"`, grey), fmt.Sprintf(`fill="%s" font-size="17" font-weight="bold"`, ink)
	s.text(left, 28, "start", loud, "From the broker to OpenSearch's acknowledgement")
	s.text(left, 48, "start", small, "%d events of 534 bytes at %d a second, one real node; all on two cores", len(all), freshRate)
	for tick := 0.0; tick <= 1; tick += 0.25 {
		s.path([][2]float64{{left, y(tick)}, {right, y(tick)}}, fmt.Sprintf(`stroke="%s"`, line))
		s.text(left-8, y(tick)+4, "end", small, "%.0f", tick*most)
		s.text(right+8, y(tick)+4, "start", small, "%.0f %%", tick*100)
	}
	for i, n := range counts {
		w := (right - left) / bins
		s.rect(left+float64(i)*w, y(float64(n)/most), w-1, bottom-y(float64(n)/most), pale)
	}
	curve := [][2]float64{{x(0), y(0)}}
	for i := 0; i < len(all); i += max(1, len(all)/400) {
		curve = append(curve, [2]float64{x(ms(all[i])), y(float64(i+1) / float64(len(all)))})
	}
	curve = append(curve, [2]float64{x(ms(all[len(all)-1])), y(1)}, [2]float64{right, y(1)})
	s.path(curve, fmt.Sprintf(`stroke="%s" stroke-width="2"`, dark))
	step := 50.0
	if end > 700 {
		step = 100
	}
	for v := 0.0; v <= end; v += step {
		s.path([][2]float64{{x(v), bottom}, {x(v), bottom + 5}}, fmt.Sprintf(`stroke="%s"`, grey))
		s.text(x(v), bottom+20, "middle", small, "%.0f", v)
	}
	s.path([][2]float64{{left, bottom}, {right, bottom}}, fmt.Sprintf(`stroke="%s"`, grey))
	mark := func(v time.Duration, low float64, style, label string) {
		s.path([][2]float64{{x(ms(v)), bottom}, {x(ms(v)), top}}, style)
		anchor, beside := "start", 5.0
		if x(ms(v)) > right-100 {
			anchor, beside = "end", -5
		}
		s.text(x(ms(v))+beside, low, anchor, fmt.Sprintf(`fill="%s" font-weight="bold"`, ink), "%s", label)
	}
	dashed := fmt.Sprintf(`stroke="%s" stroke-dasharray="4 4"`, ink)
	mark(p50, top+150, dashed, fmt.Sprintf("p50 %.0f ms", ms(p50)))
	mark(p99, top+180, dashed, fmt.Sprintf("p99 %.0f ms", ms(p99)))
	mark(freshBar, top+210, `stroke="#B3261E" stroke-width="2"`, "goal for p99")
	s.text((left+right)/2, height-14, "middle", small, "milliseconds from just before the event is sent until the bulk answer is complete")
	s.text(16, (top+bottom)/2, "middle", small+fmt.Sprintf(` transform="rotate(-90 16 %.0f)"`, (top+bottom)/2), "events in each bar")
	s.text(width-8, (top+bottom)/2, "middle", small+fmt.Sprintf(` transform="rotate(90 %.0f %.0f)"`, width-8, (top+bottom)/2), "share that is there")
	s.WriteString("</svg>\n")
	return []byte(s.String())
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
