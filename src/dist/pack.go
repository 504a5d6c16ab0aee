package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// nfpm is what makes the packages, and is in goreleaser, too.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.0"

// packages says what is in a package.
const packages = "init/package/nfpm.yaml"

// pack makes the packages, named name and their kind. Programs come from root;
// work is for scratch files.
func (r release) pack(a arch, root, work, name string) error {
	text, err := os.ReadFile(packages)
	if err != nil {
		return err
	}
	values := map[string]string{"VERSION": r.version, "ARCH": a.nfpm, "DATE": r.date.UTC().Format(time.RFC3339), "ROOT": root}
	config := filepath.Join(work, a.people+".yaml")
	expanded := os.Expand(string(text), func(name string) string { return values[name] })
	if err := os.WriteFile(config, []byte(expanded), 0o644); err != nil {
		return err
	}
	for _, kind := range []string{"deb", "rpm", "apk"} {
		cmd := exec.Command("go", "run", nfpm, "package", "--config", config, "--packager", kind, "--target", name+"."+kind)
		// What it knows no time for gets this one.
		cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.date.Unix()))
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make %s.%s: %w\n%s", name, kind, err, msg)
		}
	}
	return nil
}
