package stream

import (
	"encoding/json"
	"fmt"
)

// note is the engine's part of a checkpoint: what the next owner needs to go on. It is JSON, so that an operator can
// read a lease row.
type note struct {
	Version int `json:"v"`

	// The range that the next files will cover, and what was counted of it so far. A commit without files leaves it open.
	First   bool     `json:"first,omitempty"` // no file was ever published; After is just before the first record
	After   Position `json:"after"`
	Read    int64    `json:"read,omitempty"` // records
	Kept    int64    `json:"kept,omitempty"`
	Dropped int64    `json:"dropped,omitempty"`
	Dead    int64    `json:"dead,omitempty"`

	Chain     Digest `json:"chain"`               // of all files so far, those of Receipts included
	Watermark int64  `json:"watermark,omitempty"` // microseconds; 0: none yet
	State     states `json:"state,omitempty"`     // at the checkpoint's position
	Base      states `json:"base,omitempty"`      // at After, for a range that is read again

	Receipts []Receipt `json:"receipts,omitempty"` // to be published before anything else
	Overflow string    `json:"overflow,omitempty"` // where Receipts are when they did not fit
	Undo     *undo     `json:"undo,omitempty"`     // set with Receipts
}

// undo is where to read again from when staged data of the note's receipts is gone.
type undo struct {
	First bool     `json:"first,omitempty"`
	After Position `json:"after"`
	Chain Digest   `json:"chain"`
	State states   `json:"state,omitempty"`
}

// states is Snapshot's references by processor name.
type states map[string][]byte

const noteVersion = 1

func (n *note) encode() []byte {
	n.Version = noteVersion
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // no field that JSON cannot say
	}
	return text
}

func decodeNote(text []byte) (*note, error) {
	n := new(note)
	if err := json.Unmarshal(text, n); err != nil {
		return nil, fmt.Errorf("the checkpoint's note is not ours: %w", err)
	}
	if n.Version != noteVersion {
		return nil, fmt.Errorf("the checkpoint's note has version %d; this program writes %d", n.Version, noteVersion)
	}
	return n, nil
}
