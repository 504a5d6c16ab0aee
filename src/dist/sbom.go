package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// bom is a bill of materials: CycloneDX 1.5, as JSON. It has no serial number
// and no time, so that equal programs have equal bills.
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type    string `json:"type"`
	Ref     string `json:"bom-ref"`
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"purl,omitempty"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// writeSBOM lists the modules that the programs in a tarball were built from,
// as the programs themselves have it.
func writeSBOM(tarball, version, to string) error {
	name := strings.TrimSuffix(filepath.Base(tarball), ".tar.gz")
	b := bom{
		Format: "CycloneDX", SpecVersion: "1.5", Version: 1,
		Metadata: metadata{component{Type: "application", Ref: name, Name: name, Version: version}},
	}
	all := dependency{Ref: name}
	modules := map[string]component{}
	err := eachProgram(tarball, func(at string, program []byte) error {
		info, err := buildinfo.Read(bytes.NewReader(program))
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		p := component{
			Type: "application", Ref: at, Name: path.Base(at), Version: version,
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(program))}},
		}
		std := module("std", strings.TrimPrefix(info.GoVersion, "go"))
		modules[std.Ref] = std
		needs := dependency{Ref: p.Ref, DependsOn: []string{std.Ref}}
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			m := module(d.Path, d.Version)
			modules[m.Ref] = m
			needs.DependsOn = append(needs.DependsOn, m.Ref)
		}
		slices.Sort(needs.DependsOn)
		b.Components = append(b.Components, p)
		b.Dependencies = append(b.Dependencies, needs)
		all.DependsOn = append(all.DependsOn, p.Ref)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list what is in %s: %w", tarball, err)
	}
	if len(b.Components) == 0 {
		return fmt.Errorf("list what is in %s: there is no program", tarball)
	}
	b.Components = append(b.Components, slices.SortedFunc(maps.Values(modules), func(a, b component) int { return cmp.Compare(a.Ref, b.Ref) })...)
	b.Dependencies = append([]dependency{all}, b.Dependencies...)
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(text, '\n'), 0o644)
}

func module(path, version string) component {
	url := "pkg:golang/" + path + "@" + version
	return component{Type: "library", Ref: url, Name: path, Version: version, URL: url}
}

// eachProgram calls f with the ELF files of a tarball.
func eachProgram(tarball string, f func(at string, program []byte) error) error {
	file, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer file.Close()
	packed, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(packed); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(b, []byte("\x7fELF")) {
			if err := f(h.Name, b); err != nil {
				return err
			}
		}
	}
}
