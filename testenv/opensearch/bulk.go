package opensearch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// operation is one action line of a bulk request.
type operation struct {
	kind      string
	index, id string
	version   *int64
	external  string // version_type
	ifSeq     *int64
}

type actionLine struct {
	Index       string `json:"_index"`
	ID          string `json:"_id"`
	Version     *int64 `json:"version"`
	VersionType string `json:"version_type"`
	IfSeq       *int64 `json:"if_seq_no"`
}

// serveBulk does one bulk request, with the fault that is planned for it.
func (s *Server) serveBulk(w http.ResponseWriter, r *http.Request, path []string, body []byte, user string) {
	fault := s.nextFault()
	switch fault {
	case Refuse503:
		http.Error(w, "no available server", http.StatusServiceUnavailable)
		return
	case Refuse429:
		answer(w, nil, problemf(http.StatusTooManyRequests, "rejected_execution_exception", "rejected execution of coordinating operation"))
		return
	case Reset:
		panic(http.ErrAbortHandler)
	case Hang:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	began := time.Now()
	index := ""
	if len(path) == 2 {
		index = path[0]
	}
	s.mu.Lock()
	items, failed, p := s.bulk(index, body, fault == EverySecond, s.o.ReadOnly[user])
	s.mu.Unlock()
	if fault == LostAnswer {
		panic(http.ErrAbortHandler)
	}
	if p != nil {
		answer(w, nil, p)
		return
	}
	var out bytes.Buffer
	out.WriteByte('{')
	if r.URL.Query().Get("filter_path") == "" { // of the paths that can be asked for only this one is at the front
		fmt.Fprintf(&out, `"took":%d,`, time.Since(began).Milliseconds())
	}
	fmt.Fprintf(&out, `"errors":%t,"items":[`, failed)
	for i, item := range items {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(item)
	}
	out.WriteString("]}")
	answer(w, out.Bytes(), nil)
}

// bulk does all operations, under the lock.
func (s *Server) bulk(index string, body []byte, everySecond, readOnly bool) (items [][]byte, failed bool, p *problem) {
	s.counts.Bulks++
	if len(body) == 0 || body[len(body)-1] != '\n' {
		return nil, false, problemf(http.StatusBadRequest, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
	}
	n := 0
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte("\n"))
		body = rest
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		op, p := parseAction(line, index)
		if p == nil && len(op.id) > 512 {
			p = problemf(http.StatusBadRequest, "action_request_validation_exception", "Validation Failed: 1: id [%s] is too long, must be no longer than 512 bytes but was: %d;", op.id, len(op.id))
		}
		if p != nil {
			return nil, false, p
		}
		var source []byte
		if op.kind != "delete" {
			source, body, _ = bytes.Cut(body, []byte("\n"))
		}
		n++
		s.counts.Items++
		var d *doc
		switch {
		case readOnly:
			p = problemf(http.StatusForbidden, "security_exception", "no permissions for [indices:data/write/bulk[s]] and User [name=readall]")
		case everySecond && n%2 == 0:
			p = problemf(http.StatusTooManyRequests, "rejected_execution_exception", "rejected execution of primary operation")
		default:
			d, p = s.write(op, source)
		}
		failed = failed || p != nil
		items = append(items, itemAnswer(op, d, p))
	}
	return items, failed, nil
}

func parseAction(line []byte, index string) (operation, *problem) {
	var in map[string]actionLine
	if err := json.Unmarshal(line, &in); err != nil || len(in) != 1 {
		return operation{}, problemf(http.StatusBadRequest, "illegal_argument_exception", "Malformed action/metadata line [1], expected START_OBJECT but found [VALUE_STRING]")
	}
	for kind, a := range in {
		if a.Index == "" {
			a.Index = index
		}
		return operation{kind, a.Index, a.ID, a.Version, a.VersionType, a.IfSeq}, nil
	}
	panic("unreachable: in has one element")
}

func itemAnswer(op operation, d *doc, p *problem) []byte {
	out := map[string]any{"_index": op.index, "_id": op.id}
	if p != nil {
		out["status"], out["error"] = p.status, p.body()
	} else {
		out["status"], out["result"], out["_version"], out["_seq_no"] = 200, "updated", d.version, d.seq
		if d.fresh {
			out["status"], out["result"] = 201, "created"
		}
	}
	text, err := json.Marshal(map[string]any{op.kind: out})
	if err != nil {
		panic(err) // of texts and numbers
	}
	return text
}

// target is the index that an operation writes to, made where it is not there.
func (s *Server) target(op operation) (*index, *problem) {
	if backing := s.streams[op.index]; backing != nil {
		if op.kind != "create" {
			return nil, problemf(http.StatusBadRequest, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams")
		}
		return s.indices[backing[len(backing)-1]], nil
	}
	ix := s.indices[op.index]
	if ix == nil {
		if behind := s.find(op.index); len(behind) > 0 {
			if len(behind) > 1 {
				return nil, problemf(http.StatusBadRequest, "illegal_argument_exception", "no write index is defined for alias [%s]. The write index may be explicitly disabled using is_write_index=false or the alias points to multiple indices without one being designated as a write index", op.index)
			}
			ix = behind[0]
		} else if op.index != strings.ToLower(op.index) || op.index == "" {
			return nil, problemf(http.StatusBadRequest, "invalid_index_name_exception", "Invalid index name [%s], must be lowercase", op.index)
		} else {
			ix = s.create(op.index)
		}
	}
	switch {
	case ix.readOnly:
		return nil, problemf(http.StatusTooManyRequests, "cluster_block_exception", "index [%s] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];", ix.name)
	case ix.noWrite:
		return nil, problemf(http.StatusForbidden, "cluster_block_exception", "index [%s] blocked by: [FORBIDDEN/8/index write (api)];", ix.name)
	}
	return ix, nil
}

func conflict(id, format string, args ...any) *problem {
	return problemf(http.StatusConflict, "version_conflict_engine_exception", "[%s]: version conflict, %s", id, fmt.Sprintf(format, args...))
}

// write does one operation.
func (s *Server) write(op operation, body []byte) (*doc, *problem) {
	ix, p := s.target(op)
	if p != nil {
		return nil, p
	}
	if op.id == "" {
		op.id = fmt.Sprintf("generated-%d", s.seq)
	}
	d := ix.docs[op.id]
	there := d != nil && !d.deleted
	if p := op.conflicts(d, there); p != nil {
		return nil, p
	}
	if op.kind == "delete" {
		if d == nil {
			d = new(doc)
			ix.docs[op.id] = d
		}
		return s.stored(op, d, nil, true), nil
	}
	source, p := decodeSource(body)
	if p != nil {
		return nil, p
	}
	if op.kind == "update" {
		var old map[string]any
		if there {
			old = d.source
		}
		var none bool
		source, none, p = s.updated(op.id, old, source)
		if p != nil {
			return nil, p
		}
		if none {
			if d == nil {
				d = new(doc)
			}
			return d, nil
		}
	}
	if p := ix.check(op.id, source); p != nil {
		return nil, p
	}
	if d == nil {
		d = new(doc)
		ix.docs[op.id] = d
	}
	return s.stored(op, d, source, false), nil
}

// conflicts says why the versions do not allow op on d.
func (op operation) conflicts(d *doc, there bool) *problem {
	switch {
	case op.kind == "create" && there:
		return conflict(op.id, "document already exists (current version [%d])", d.version)
	case op.external == "external" && d != nil && *op.version <= d.version:
		return conflict(op.id, "current version [%d] is higher or equal to the one provided [%d]", d.version, *op.version)
	case op.external == "external_gte" && d != nil && *op.version < d.version:
		return conflict(op.id, "current version [%d] is higher than the one provided [%d]", d.version, *op.version)
	case op.ifSeq != nil && (d == nil || d.seq != *op.ifSeq):
		return conflict(op.id, "required seqNo [%d]", *op.ifSeq)
	}
	return nil
}

func (s *Server) stored(op operation, d *doc, source map[string]any, deleted bool) *doc {
	s.seq++
	d.version++
	d.fresh = d.source == nil
	if op.version != nil {
		d.version = *op.version
	}
	d.seq, d.source, d.deleted = s.seq, source, deleted
	return d
}

func decodeSource(body []byte) (map[string]any, *problem) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var source map[string]any
	if err := decoder.Decode(&source); err != nil {
		return nil, problemf(http.StatusBadRequest, "mapper_parsing_exception", "failed to parse: %s", err)
	}
	return source, nil
}

// updated is what an update makes of old, which is nil where there is no document.
func (s *Server) updated(id string, old, request map[string]any) (source map[string]any, none bool, p *problem) {
	upsert, _ := request["upsert"].(map[string]any)
	if script, ok := request["script"].(map[string]any); ok {
		text, _ := script["source"].(string)
		run := s.o.Scripts[text]
		if run == nil {
			return nil, false, &problem{status: http.StatusBadRequest, kind: "illegal_argument_exception", reason: "failed to execute script", cause: &problem{kind: "script_exception", reason: "compile error"}}
		}
		if old == nil && upsert == nil {
			return nil, false, problemf(http.StatusNotFound, "document_missing_exception", "[%s]: document missing", id)
		}
		source = map[string]any{}
		for k, v := range old {
			source[k] = v
		}
		params, _ := script["params"].(map[string]any)
		return source, run(source, params) == "none", nil
	}
	fresh, _ := request["doc"].(map[string]any)
	switch {
	case old == nil && request["doc_as_upsert"] == true:
		return fresh, false, nil
	case old == nil && upsert != nil:
		return upsert, false, nil
	case old == nil:
		return nil, false, problemf(http.StatusNotFound, "document_missing_exception", "[%s]: document missing", id)
	}
	source = map[string]any{}
	for k, v := range old {
		source[k] = v
	}
	for k, v := range fresh {
		source[k] = v
	}
	return source, false, nil
}
