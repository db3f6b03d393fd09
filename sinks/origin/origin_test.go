package origin

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Mutations seen red (line broken -> test):
//
//	Repeated: what is before the greatest position is a repeat -> NothingNewIsTakenForARepeat
//	Repeated: what is older than all that is kept is new -> WhatComesAgainIsARepeat

func position(n int) string { return fmt.Sprintf("%016x-00000000", n) }

// A log as a request leaves it of which a part was sent again: what is late is late by less than a request.
func TestNothingNewIsTakenForARepeat(t *testing.T) {
	const seed = 3
	rng := rand.New(rand.NewPCG(seed, 0))
	var r Repeats
	for from := 0; from < 20*Disorder; from += Disorder {
		var late []int
		for n := from; n < from+Disorder; n++ {
			if rng.IntN(3) == 0 && n < from+Disorder-1 {
				late = append(late, n)
			} else if r.Repeated("clicks", "p", position(n)) {
				t.Fatalf("seed %d: %d is taken for a repeat", seed, n)
			}
		}
		for _, n := range late {
			if r.Repeated("clicks", "p", position(n)) {
				t.Fatalf("seed %d: %d, which is late, is taken for a repeat", seed, n)
			}
		}
	}
}

func TestWhatComesAgainIsARepeat(t *testing.T) {
	var r Repeats
	for n := range 5 * Disorder {
		r.Repeated("clicks", "p", position(n))
	}
	for n := range 5 * Disorder {
		if !r.Repeated("clicks", "p", position(n)) {
			t.Fatalf("%d is taken for new", n)
		}
	}
	if r.Repeated("clicks", "q", position(7)) || r.Repeated("views", "p", position(7)) {
		t.Error("the position of another partition or pipeline is taken for a repeat")
	}
	for range 2 {
		if r.Repeated("", "", "") {
			t.Error("a message without a position is taken for a repeat")
		}
	}
}
