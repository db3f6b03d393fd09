//go:build real

package opensearch_test

import (
	"testing"

	"github.com/millrace-io/millrace/testenv/opensearch"
)

func TestRealOpenSearchAnswersAsTheScriptSays(t *testing.T) {
	n, err := opensearch.Start(t.Context(), opensearch.NodeOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Stop()
	play(t, t.Context(), n.URL)
}
