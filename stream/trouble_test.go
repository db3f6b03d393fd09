package stream

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// Mutations seen red:
//   - Ended: a cancelled call counts; a success ends all kinds; each failure begins anew
func TestTroubleIsWhatHasNotSucceededSince(t *testing.T) {
	var trouble Trouble
	says := func(want string) {
		t.Helper()
		if why, since := trouble.Failing(); why != want || since.IsZero() != (want == "") {
			t.Errorf("%q since %s; want %q", why, since, want)
		}
	}
	trouble.Ended("read", fmt.Errorf("read: %w", context.Canceled))
	says("")
	trouble.Ended("read", errors.New("no answer"))
	_, first := trouble.Failing()
	trouble.Ended("lease", errors.New("refused"))
	trouble.Ended("read", errors.New("reset"))
	says("lease: refused; read: reset")
	if _, since := trouble.Failing(); !since.Equal(first) {
		t.Errorf("it fails since %s; want %s", since, first)
	}
	trouble.Ended("read", nil)
	says("lease: refused")
	trouble.Ended("lease", nil)
	says("")
}
