package opensearch

import (
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// The scripts say in painless what stream.Ordering.Later says in Go: may the event at place (p, v, t) change the document? They
// are constants with parameters, so that a node compiles each once.
const (
	laterByPosition = `boolean later = s._position == null || ((String) s._position).compareTo(params.v) < 0;`
	laterByTime     = `boolean later = s._position == null; ` +
		`if (!later) { if (s._partition.equals(params.p)) { later = ((String) s._position).compareTo(params.v) < 0; } ` +
		`else { long was = ((Number) s._time).longValue(); long now = ((Number) params.t).longValue(); ` +
		`later = was < now || (was == now && ((String) s._partition).compareTo(params.p) < 0); } }`

	// same is what may change a document that keeps its first event: that event, when Options.Mend says so.
	same = `boolean later = s._position == null || (s._partition.equals(params.p) && s._position.equals(params.v));`
)

// script is the update of a document: replaced by the event's values, or, to merge, changed by them.
func script(action string, o Options) string {
	later := laterByPosition
	if o.Ordering == stream.ByTime {
		later = laterByTime
	}
	if o.Mend {
		later = strings.ReplaceAll(later, "compareTo(params.v) < 0", "compareTo(params.v) <= 0")
	}
	if action == "create" {
		later = same
	}
	clear := "s.clear(); "
	if action == "update" {
		clear = "if (s._deleted != null) { s.clear(); } " // what was deleted begins anew
	}
	return fmt.Sprintf("def s = ctx._source; %s if (later) { if (params.doc._deleted != null) { s.clear(); } %ss.putAll(params.doc); } else { ctx.op = 'none'; }", later, clear)
}

// scriptHead is the update's line up to its parameters.
func scriptHead(action string, o Options) []byte {
	head := document.AppendString([]byte(`{"scripted_upsert":true,"upsert":{},"script":{"lang":"painless","source":`), script(action, o))
	return append(head, `,"params":{`...)
}
