//go:build real

package dynamodb

import "testing"

// differs is what dynalite answers otherwise, and why.
var differs = map[string]string{
	"condition NOT NOT num = :half":        "dynalite's grammar has no NOT of a NOT; Amazon's has: NOT condition",
	"condition yes < :yes":                 "dynalite looks at the operands' types only when it compares; Amazon refuses a value that has no order",
	"create again":                         "dynalite says no more than the error's name",
	"number +3":                            "dynalite refuses the sign; the API reference does not",
	"scan a segment of none":               "dynalite takes segment 0 for none given",
	"update REMOVE seq[0], seq[2] ALL_NEW": "dynalite removes one after the other; in Amazon's guide REMOVE RelatedItems[1], RelatedItems[2] means the list before",
	"values alone":                         "Amazon and dynalite also say which expressions are missing",
	"write none":                           "Amazon and dynalite show the request in the text",
	"write too many":                       "Amazon and dynalite show the request in the text",
}

// TestRealDynaliteAgrees runs one script of calls against this server and one that others wrote, and compares what was answered,
// the text of errors included.
func TestRealDynaliteAgrees(t *testing.T) {
	other, err := Dynalite()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	_, ours := start(t, Options{})
	want, got := play(t, ours), play(t, client(t, other.URL(), "local"))
	if len(want) != len(got) {
		t.Fatalf("%d answers; want %d", len(got), len(want))
	}
	for i, w := range want {
		why, known := differs[w.step]
		if same := w.text == got[i].text; same == known {
			t.Errorf("%s:\n dynalite %s\n     ours %s\n known difference: %q", w.step, got[i].text, w.text, why)
		}
	}
}
