//go:build real

package http

import (
	"testing"
	"time"
)

func TestRealNetworkCostsAReceiverNothing(t *testing.T) {
	losesNothing(t, Config{Timeout: 2 * time.Second}, nil)
}
