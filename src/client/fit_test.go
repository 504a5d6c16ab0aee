package client

import (
	"os"
	"path/filepath"
	"testing"
)

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
