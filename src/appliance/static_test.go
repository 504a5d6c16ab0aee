//go:build appliance

package appliance

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestApplianceStatic builds for every architecture: no program may need a
// library or a loader that an image has not.
func TestApplianceStatic(t *testing.T) {
	for _, p := range []string{aysfs, ays, aysCache} {
		if got, want := run(t, time.Minute, p, "-version"), filepath.Base(p)+" appliance"; !strings.HasPrefix(got, want) {
			t.Errorf("-version prints %q, want %q", got, want)
		}
	}
	for _, arch := range [][]string{{"GOARCH=amd64"}, {"GOARCH=arm", "GOARM=6"}, {"GOARCH=arm", "GOARM=7"}, {"GOARCH=arm64"}} {
		bin := t.TempDir()
		if err := build(bin, arch...); err != nil {
			t.Fatal(err)
		}
		programs, err := os.ReadDir(bin)
		if err != nil || len(programs) < 3 {
			t.Fatalf("%v: %d programs, %v", arch, len(programs), err)
		}
		for _, p := range programs {
			f, err := elf.Open(filepath.Join(bin, p.Name()))
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			for _, part := range f.Progs {
				if part.Type == elf.PT_DYNAMIC || part.Type == elf.PT_INTERP {
					t.Errorf("%s for %v has %v", p.Name(), arch, part.Type)
				}
			}
		}
	}
}
