package fs

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// What is mounted is known also where no descriptor is left, so that it can be unmounted.
func TestMountTableWithoutDescriptors(t *testing.T) {
	opened, err := os.Open(mountTableFile)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	want, err := mountTable(nil)
	if err != nil || len(want) == 0 {
		t.Fatalf("%d mounts, error %v", len(want), err)
	}
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Fatal(err)
	}
	_, without := mountTable(nil)
	for range 2 {
		got, err := mountTable(opened)
		if err != nil || len(got) != len(want) {
			t.Errorf("%d mounts of %d, error %v", len(got), len(want), err)
		}
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &old, nil); err != nil {
		t.Fatal(err)
	}
	if without == nil {
		t.Error("there were descriptors: nothing was tested")
	}
}
