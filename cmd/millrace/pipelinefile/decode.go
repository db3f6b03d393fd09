package pipelinefile

import (
	"cmp"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills Go values from nodes. It goes on after a problem, so that one run finds all.
type decoder struct {
	file *File
	seen []string // paths of problems, and of the keys that were probably meant
}

func (d *decoder) problem(n *yaml.Node, path, format string, args ...any) {
	d.seen = append(d.seen, path)
	d.file.problem(n, "%s", strings.TrimSpace(path+" "+fmt.Sprintf(format, args...)))
}

func (d *decoder) reported(path string) bool { return slices.Contains(d.seen, path) }

func (d *decoder) into(n *yaml.Node, path string, cfg any) {
	d.value(nil, n, path, reflect.ValueOf(cfg).Elem(), "")
}

func (d *decoder) value(key, n *yaml.Node, path string, v reflect.Value, unit string) {
	switch {
	case v.Type() == reflect.TypeFor[Value]():
		v.Set(reflect.ValueOf(Value{file: d.file, node: n, key: key, path: path}))
		return
	case v.Type() == reflect.TypeFor[time.Duration]():
		d.duration(n, path, v)
		return
	case unit == "bytes":
		d.bytes(n, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(key, n, path, v.Elem(), unit)
	case reflect.Struct:
		if d.want(n, path, yaml.MappingNode, "keys and values") {
			d.structure(n, path, v)
		}
	case reflect.Map:
		if d.want(n, path, yaml.MappingNode, "keys and values") {
			d.mapping(n, path, v, unit)
		}
	case reflect.Slice:
		if d.want(n, path, yaml.SequenceNode, "a list, such as [a, b]") {
			d.list(n, path, v, unit)
		}
	default:
		d.scalar(n, path, v)
	}
}

// want checks the kind of a node.
func (d *decoder) want(n *yaml.Node, path string, kind yaml.Kind, what string) bool {
	if n.Kind == kind {
		return true
	}
	d.problem(n, path, "is %s; want %s", kindOf(n), what)
	return false
}

func (d *decoder) structure(n *yaml.Node, path string, v reflect.Value) {
	fields := map[string]int{}
	names := []string{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = i
			names = append(names, name)
		}
	}
	for _, sub := range (Value{file: d.file, node: n, path: path}).children() {
		i, ok := fields[sub.key.Value]
		if !ok {
			d.unknown(sub.key, path, names)
			continue
		}
		d.value(sub.key, sub.node, sub.path, v.Field(i), v.Type().Field(i).Tag.Get("unit"))
	}
}

func (d *decoder) unknown(key *yaml.Node, path string, names []string) {
	in := ""
	if path != "" {
		in = " in " + path
	}
	near := nearest(key.Value, names)
	if near == "" {
		d.file.problem(key, "unknown key %q%s; want %s", key.Value, in, oneOf(names))
		return
	}
	d.seen = append(d.seen, strings.TrimPrefix(path+"."+near, "."))
	d.file.problem(key, "unknown key %q%s; did you mean %q?", key.Value, in, near)
}

func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value, unit string) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, sub := range (Value{file: d.file, node: n, path: path}).children() {
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(sub.key, sub.node, sub.path, element, unit)
		v.SetMapIndex(reflect.ValueOf(sub.key.Value).Convert(v.Type().Key()), element)
	}
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value, unit string) {
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, item, fmt.Sprintf("%s[%d]", path, i), v.Index(i), unit)
	}
}

func (d *decoder) scalar(n *yaml.Node, path string, v reflect.Value) {
	var s string
	if !d.text(n, path, &s) {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		if s != "true" && s != "false" {
			d.problem(n, path, "is %q; want true or false", s)
			return
		}
		v.SetBool(s == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			d.problem(n, path, "is %q; want a whole number", s)
			return
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		u, err := strconv.ParseUint(s, 10, v.Type().Bits())
		if err != nil {
			d.problem(n, path, "is %q; want a whole number that is not negative", s)
			return
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		x, err := strconv.ParseFloat(s, v.Type().Bits())
		if err != nil || math.IsInf(x, 0) || math.IsNaN(x) {
			d.problem(n, path, "is %q; want a number", s)
			return
		}
		v.SetFloat(x)
	default:
		d.problem(n, path, "cannot be set in a pipeline file: no rule for %s", v.Type())
	}
}

// text is the text of a single value as it is written: a number or a date needs no quotes to be a string.
func (d *decoder) text(n *yaml.Node, path string, s *string) bool {
	if !d.want(n, path, yaml.ScalarNode, "a single value") {
		return false
	}
	if _, expanded := d.file.origins[n]; n.Tag == "!!null" && !expanded {
		d.problem(n, path, "has no value; give it one, or leave the key out")
		return false
	}
	if d.file.origins[n].unset {
		d.seen = append(d.seen, path)
		return false // check has told why
	}
	*s = n.Value
	return true
}

func (d *decoder) duration(n *yaml.Node, path string, v reflect.Value) {
	var s string
	if !d.text(n, path, &s) {
		return
	}
	t, err := time.ParseDuration(s)
	if err != nil || t < 0 {
		d.problem(n, path, "is %q; want a duration such as %s (units ms, s, m, h)", s, cmp.Or(likelyDuration(s), "5s"))
		return
	}
	v.SetInt(int64(t))
}

func (d *decoder) bytes(n *yaml.Node, path string, v reflect.Value) {
	var s string
	if !d.text(n, path, &s) {
		return
	}
	size, ok := parseBytes(s)
	if !ok || v.OverflowInt(size) {
		d.problem(n, path, "is %q; want a size such as %s (units B, KB, MB, GB, KiB, MiB, GiB)", s, cmp.Or(likelyBytes(s), "128MiB"))
		return
	}
	v.SetInt(size)
}

// kindOf says what a node is, to somebody who does not know YAML's words.
func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping (keys and values)"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "empty"
	}
	return fmt.Sprintf("the single value %q", shorten(n.Value))
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return s
}
