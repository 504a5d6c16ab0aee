package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"unique"
)

// Secret is a password or the like. Printed, logged or marshalled in any way
// it is "***", or empty where it is not set. Equal secrets are ==; the zero
// Secret is the empty one.
//
// It is not a string underneath because fmt calls no method of a value that
// it finds in an unexported field of a struct: it would print the string.
type Secret struct{ value unique.Handle[string] }

// NewSecret hides s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{unique.Make(s)}
}

// Reveal is the only way to the secret itself.
func (s Secret) Reveal() string {
	if s == (Secret{}) {
		return ""
	}
	return s.value.Value()
}

func (s Secret) String() string {
	if s == (Secret{}) {
		return ""
	}
	return "***"
}

// Format prints String whatever the verb, %#v among them.
func (s Secret) Format(f fmt.State, verb rune) { fmt.Fprint(f, s.String()) }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON is String as JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }
