package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// TestDependenciesAreListed holds the README's table against go.mod.
func TestDependenciesAreListed(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(readme), "## What it is built on\n")
	if !ok {
		t.Fatal("the README does not say what this is built on")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	listed := make(map[string]string) // module to version
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) < 5 || cells[0] == "module" || strings.HasPrefix(cells[0], "-") {
			continue
		}
		listed[cells[0]] = cells[1]
		for _, c := range cells {
			if c == "" {
				t.Errorf("%s: a cell is empty", cells[0])
			}
		}
	}
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Indirect {
			continue
		}
		if v := listed[r.Mod.Path]; v != r.Mod.Version {
			t.Errorf("the README lists %s %q, go.mod has %s", r.Mod.Path, v, r.Mod.Version)
		}
		delete(listed, r.Mod.Path)
	}
	for m := range listed {
		t.Errorf("the README lists %s, go.mod does not have it", m)
	}
}
