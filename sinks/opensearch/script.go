package opensearch

import (
	"fmt"

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
)

// script is the update of a document: replaced by the event's values, or, to merge, changed by them.
func script(action string, o stream.Ordering) string {
	later := laterByPosition
	if o == stream.ByTime {
		later = laterByTime
	}
	clear := "s.clear(); "
	if action == "update" {
		clear = "if (s._deleted != null) { s.clear(); } " // what was deleted begins anew
	}
	return fmt.Sprintf("def s = ctx._source; %s if (later) { if (params.doc._deleted != null) { s.clear(); } %ss.putAll(params.doc); } else { ctx.op = 'none'; }", later, clear)
}

// scriptHead is the update's line up to its parameters.
func scriptHead(action string, o stream.Ordering) []byte {
	head := document.AppendString([]byte(`{"scripted_upsert":true,"upsert":{},"script":{"lang":"painless","source":`), script(action, o))
	return append(head, `,"params":{`...)
}
