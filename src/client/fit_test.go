package client

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aysfs/aysfs/src/config"
)

// More than the machine has is not used, and told once.
func TestFitTheMachine(t *testing.T) {
	all := machineMemory()
	if all < 64<<20 {
		t.Fatalf("the machine has %d bytes", all)
	}
	var told bytes.Buffer
	log := slog.New(slog.NewTextHandler(&told, nil))
	asked := &config.Client{Main: config.Main{Memory: 4 * all}}
	used := fit(asked, 0, log).Main.Memory
	if used > all/2 || used < leastMemory || asked.Main.Memory != 4*all {
		t.Errorf("%d of %d bytes are used", used, all)
	}
	if !strings.Contains(told.String(), "set [main] memory to less") {
		t.Errorf("told %q", &told)
	}
	told.Reset()
	if n := fit(asked, used, log).Main.Memory; n != used || told.Len() > 0 {
		t.Errorf("%d bytes are used then, told %q", n, &told)
	}
	if n := fit(&config.Client{Main: config.Main{Memory: leastMemory}}, 0, log).Main.Memory; n != leastMemory || told.Len() > 0 {
		t.Errorf("%d bytes are used of the least, told %q", n, &told)
	}
}

func TestGroupLimit(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"cgroup/memory/memory.limit_in_bytes":     "9223372036854771712\n",
		"cgroup/memory/a/memory.limit_in_bytes":   "104857600\n",
		"cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
		"cgroup/two/memory.max":                   "max\n",
		"cgroup/two/three/memory.max":             "52428800\n",
		"v1":                                      "9:cpu,cpuacct:/a\n4:memory:/a/b\n0::/two\n",
		"v2":                                      "0::/two/three\n",
		"none":                                    "0::/two\n",
		"outside":                                 "4:memory:/../../elsewhere\n",
		"odd":                                     "4\nx:memory\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]int64{"v1": 100 << 20, "v2": 50 << 20, "none": 0, "outside": 0, "odd": 0, "absent": 0} {
		if n, ok := groupLimit(filepath.Join(dir, name), filepath.Join(dir, "cgroup")); n != want || ok != (want > 0) {
			t.Errorf("%s: %d, %v, want %d", name, n, ok, want)
		}
	}
}
