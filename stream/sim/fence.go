//go:build !brokenfence

package sim

// fenceSkipped is true in a build with the tag brokenfence only: then the source takes the commits of owners whose lease has been
// taken, and millrace sim has to notice. See TestSimCatchesABrokenFence.
const fenceSkipped = false
