package metrics

import (
	"bytes"
	"fmt"
	"strings"
)

// ContentType is what a Text is sent as.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kinds of metrics.
const (
	Gauge   = "gauge"
	Counter = "counter"
)

// Text is metrics as they are written.
type Text struct{ b bytes.Buffer }

// Bytes is what was written.
func (t *Text) Bytes() []byte { return t.b.Bytes() }

// One writes a metric that has one value.
func (t *Text) One(name, kind, help string, v any) { t.Many(name, kind, help)(v) }

// Many begins a metric that has a value for each set of labels, and returns what writes
// one. Labels are names and values in turn; true is 1, and false 0.
func (t *Text) Many(name, kind, help string) func(v any, labels ...string) {
	fmt.Fprintf(&t.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
	return func(v any, labels ...string) { t.value(name, v, labels) }
}

// labelEscapes are those of the format.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (t *Text) value(name string, v any, labels []string) {
	t.b.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(&t.b, `%s%s="%s"`, sep, labels[i], labelEscapes.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		t.b.WriteByte('}')
	}
	switch v {
	case true:
		v = 1
	case false:
		v = 0
	}
	fmt.Fprintln(&t.b, "", v)
}
