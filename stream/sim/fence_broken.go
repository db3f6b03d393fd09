//go:build brokenfence

package sim

const fenceSkipped = true
