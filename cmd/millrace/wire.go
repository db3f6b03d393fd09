package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/processors/expr"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/sources/files"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/stream"
)

// This file is the only one that names every source, processor and sink. A new one is one case here.

// newPlan makes a plan of a pipeline file. What is wrong stands in the file's problems.
func newPlan(file *pipelinefile.File) *plan {
	p := &plan{file: file}
	p.wireDecode()
	for _, c := range file.Sources {
		p.wireSource(c)
	}
	for _, c := range file.Processors {
		p.wireProcessor(c)
	}
	for _, s := range file.Sinks {
		for _, c := range s.Kinds {
			p.wireSink(s, c)
		}
	}
	p.wireDeadLetters()
	p.checkPlaces()
	return p
}

func (p *plan) wireSource(c *pipelinefile.Choice) {
	p.source = sourcePlan{kind: c.Kind, at: c.Value}
	switch {
	case c.Is("kafka"):
		cfg := new(kafka.Config)
		c.Into(cfg)
		p.source.open = func(_ context.Context, log *slog.Logger) (stream.Source, error) {
			return kafka.New(*cfg, kafka.Options{Pipeline: p.file.Name, Log: log})
		}
	case c.Is("files"):
		cfg := new(files.Config)
		c.Into(cfg)
		p.source.end = func() { cfg.Follow = false }
		p.source.open = func(_ context.Context, log *slog.Logger) (stream.Source, error) {
			return files.New(*cfg, files.Options{Pipeline: p.file.Name, Log: log})
		}
	default:
		c.Unknown("source", "kinesis", "collect")
	}
}

func (p *plan) wireSink(s *pipelinefile.Sink, c *pipelinefile.Choice) {
	switch {
	case c.Is("parquet"):
		cfg := new(parquet.Config)
		if c.Into(cfg) {
			c.Reject(cfg.CheckSchema(p.schema))
		}
		p.addSink(s, c.Child("url"), sinkPlan{
			url: cfg.URL, age: cfg.Roll.Age, idle: cfg.Roll.Idle,
			open: func(store objects.Store) (inspected[*stream.Event], error) { return parquet.New(store, *cfg) },
		})
	default:
		c.Unknown("sink", "opensearch", "dynamodb", "kafka", "kinesis", "redis")
	}
}

func (p *plan) wireProcessor(c *pipelinefile.Choice) {
	step := stream.ProcessorConfig{Name: fmt.Sprintf("process.%d.%s", len(p.processors)+1, c.Kind)}
	var err error
	switch {
	case c.Is("filter"):
		if condition, ok := c.Text(); ok {
			step.New, err = expr.Filter(step.Name, condition, p.schema)
		}
	case c.Is("map"):
		if assignments := assignments(c); assignments != nil {
			step.New, err = expr.Map(step.Name, assignments, p.schema)
		}
	default:
		c.Unknown("processor", "dedupe", "validate", "lambda", "session", "window", "enrich", "anonymise", "features")
	}
	c.Reject(err)
	p.processors = append(p.processors, step)
}

// assignments are column: expression in the order of the file.
func assignments(c *pipelinefile.Choice) []expr.Assignment {
	as := []expr.Assignment{}
	for _, column := range c.Children() {
		text, ok := column.Text()
		if !ok {
			return nil
		}
		as = append(as, expr.Assignment{Column: column.Key(), Value: text})
	}
	return as
}
