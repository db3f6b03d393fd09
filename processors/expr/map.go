package expr

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/stream"
)

// Assignment sets one column to the value of an expression.
type Assignment struct {
	Column string // name or alias
	Value  string // an expression
}

// AssignmentError is a problem of one assignment. It is about the column if it wraps no *Error, else about the expression.
type AssignmentError struct {
	Index  int // among the assignments, from 0
	Column string
	Err    error
}

func (e *AssignmentError) Error() string { return e.Column + " " + e.Err.Error() }
func (e *AssignmentError) Unwrap() error { return e.Err }

// Map compiles assignments and returns what makes the processor of one tenure. They are made in order; each sees the results
// of those before. Stage names the step in dead letters: "process.3.map". The error joins an *AssignmentError for each problem.
//
// What an int or a decimal is assigned to may be a float, or a decimal with at least as many places. Null fits every column.
func Map(stage string, assignments []Assignment, schema *stream.Schema) (func() stream.Processor, error) {
	if len(assignments) == 0 {
		return nil, errors.New("is empty; want at least one column: expression")
	}
	compiled := make([]assigned, len(assignments))
	var problems []error
	given := map[int]bool{}
	for i, a := range assignments {
		column, err := findColumn(a.Column, schema)
		if err == nil && given[column] {
			err = errors.New("is given twice")
		}
		given[column] = err == nil || given[column]
		value, valueErr := compileFor(column, a.Value, schema)
		for _, err := range split(errors.Join(err, valueErr)) {
			problems = append(problems, &AssignmentError{i, a.Column, err})
		}
		compiled[i] = assigned{column, a.Column, value}
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	return func() stream.Processor { return &mapping{stage: stage, assigned: compiled} }, nil
}

// split takes joined errors apart.
func split(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, split(one)...)
		}
		return all
	}
	return []error{err}
}

func findColumn(name string, schema *stream.Schema) (int, error) {
	i, ok := schema.Lookup(name)
	if ok {
		return i, nil
	}
	if near := nearest(name, columnNames(schema)[1:]); near != "" {
		return -1, fmt.Errorf("is no column; did you mean %q? New columns are declared under decode.columns", near)
	}
	return -1, errors.New("is no column; declare it under decode.columns, with a type")
}

// compileFor compiles the value of a column; -1 for one that does not exist.
func compileFor(column int, src string, schema *stream.Schema) (valueFn, error) {
	tree, x, err := compile(src, schema)
	if err != nil || column < 0 {
		return nil, err
	}
	want := schema.Columns[column].Type
	if t, ok := unify(code{typ: want}, x); !ok || t.Kind != want.Kind || want.Kind == stream.Decimal && t.Scale > want.Scale {
		return nil, errorAt(src, tree.pos, "%v is %s; the column is %s%s", tree, describe(x), describe(code{typ: want}), conversion(x.typ, want))
	}
	c := compiler{src: src, schema: schema}
	value := c.as(x, want).store(want)
	if err := errors.Join(c.problems...); err != nil {
		return nil, err
	}
	if want.Kind == stream.Decimal {
		value = withinPrecision(value, want)
	}
	return value, nil
}

// conversion says what to do about a type that does not fit.
func conversion(from, to stream.Type) string {
	switch {
	case to.Kind == stream.String:
		return "; write text(...)"
	case to.Kind == stream.Int && isNumber(from):
		return "; write round(...)"
	case to.Kind == stream.Decimal && isNumber(from):
		return fmt.Sprintf("; write round(..., %d)", to.Scale)
	case to.Kind == stream.Timestamp && from.Kind == stream.String:
		return "; write timestamp(...)"
	case isNumber(to) && from.Kind == stream.String:
		return "; write int(...) or float(...)"
	}
	return ""
}

func withinPrecision(value valueFn, t stream.Type) valueFn {
	limit := power10(t.Precision)
	overflow := fmt.Errorf("the number does not fit into %v", t)
	return func(e *stream.Event, m *machine) stream.Value {
		v := value(e, m)
		if i := v.Int(); i >= limit || i <= -limit {
			m.fail(overflow)
		}
		return v
	}
}

type assigned struct {
	column int
	name   string
	value  valueFn
}

type mapping struct {
	stage    string
	assigned []assigned
	machine  machine
}

var _ stream.Processor = (*mapping)(nil)

func (p *mapping) Process(_ context.Context, b *stream.Batch) error {
	p.machine.arena = b
	for i := range b.Events {
		e := &b.Events[i]
		if !e.Alive() {
			continue
		}
		if err := p.set(e); err != nil {
			e.Fail(p.stage, err)
		}
	}
	p.machine.arena = nil
	return nil
}

func (p *mapping) set(e *stream.Event) error {
	for i := range p.assigned {
		a := &p.assigned[i]
		v := a.value(e, &p.machine)
		if err := p.machine.take(); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		e.Values[a.column] = v
	}
	return nil
}
