package collect

import (
	"net/netip"
	"sync"
	"time"
)

// maxBuckets bounds the memory of a limiter, to some 10 MB.
const maxBuckets = 100_000

// limiter is a token bucket for each key. A bucket that is full is the same as none, so only keys that were heard of lately
// take memory.
type limiter[K comparable] struct {
	rate, burst float64 // tokens a second, tokens; rate 0: no limit
	most        int     // buckets
	now         func() time.Time

	mu      sync.Mutex
	buckets map[K]*bucket
	swept   time.Time
}

type bucket struct {
	tokens float64 // may be below 0: a batch is taken whole, and what it took too much is waited for
	at     time.Time
}

func newLimiter[K comparable](r Rate, now func() time.Time) *limiter[K] {
	return &limiter[K]{rate: float64(r.PerSecond), burst: float64(r.Burst), most: maxBuckets, now: now, buckets: map[K]*bucket{}}
}

// admit takes one token. If there is none it says how long to wait for one.
func (l *limiter[K]) admit(key K) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key)
	if b.tokens < 1 {
		return time.Duration((1 - b.tokens) / l.rate * float64(time.Second))
	}
	b.tokens--
	return 0
}

// charge takes n tokens of a key that was admitted.
func (l *limiter[K]) charge(key K, n int) {
	if l.rate == 0 || n <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bucket(key).tokens -= float64(n)
}

// bucket is the key's, filled up to now.
func (l *limiter[K]) bucket(key K) *bucket {
	now := l.now()
	b := l.buckets[key]
	if b == nil {
		l.makeRoom(now)
		b = &bucket{tokens: l.burst, at: now}
		l.buckets[key] = b
		return b
	}
	l.fill(b, now)
	return b
}

func (l *limiter[K]) fill(b *bucket, now time.Time) {
	b.tokens = min(l.burst, b.tokens+l.rate*now.Sub(b.at).Seconds())
	b.at = now
}

// makeRoom lets go of full buckets, at most once a second since that looks at all of them; else of any one: under an attack
// from more addresses than there is memory for, some of them begin anew.
func (l *limiter[K]) makeRoom(now time.Time) {
	if len(l.buckets) < l.most {
		return
	}
	if now.Sub(l.swept) >= time.Second {
		l.swept = now
		for key, b := range l.buckets {
			if l.fill(b, now); b.tokens >= l.burst {
				delete(l.buckets, key)
			}
		}
	}
	for key := range l.buckets {
		if len(l.buckets) < l.most {
			return
		}
		delete(l.buckets, key)
	}
}

// network is what a visitor has: one address of IPv4, 64 bits of IPv6.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		return masked(a, 64)
	}
	return a
}

func masked(a netip.Addr, bits int) netip.Addr {
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}
