package bake

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/profile"
)

func TestReadTrace(t *testing.T) {
	for text, want := range map[string]Trace{
		"/a/b\n":                      {{"/a/b", false}},
		"/a//b/../c\r\n# note\n\n/d/": {{"/a/c", false}, {"/d", true}},
		"/a\nb\x00/c#\x00#d\x00":      {{"/a\nb", false}, {"/c#", false}, {"#d", false}},
		"lib/x\nlib/":                 {{"lib/x", false}, {"lib", true}},
		"/\n":                         {{"/", true}},
		" with space \n":              {{" with space ", false}},
	} {
		if got, err := parseTrace([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "\n\n", "# nothing\n"} {
		if got, err := parseTrace([]byte(text)); err == nil {
			t.Errorf("%q: got %+v, want an error", text, got)
		}
	}
	file := filepath.Join(t.TempDir(), "large")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(maxTrace + 1); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := ReadTrace(file); err == nil || !strings.Contains(err.Error(), "name fewer paths") {
		t.Errorf("a file that is no trace: %v", err)
	}
}

func TestReadProfile(t *testing.T) {
	r := profile.NewRecording()
	r.Listing("bin")
	r.File("bin/tool", 100)
	r.Chunk("lib/big", 0, 200<<10)
	b, err := r.Profile().Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	want := Trace{{Name: "bin/tool"}, {Name: "lib/big"}}
	if got, err := ReadTrace(file); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v, %v", got, want, err)
	}
}
