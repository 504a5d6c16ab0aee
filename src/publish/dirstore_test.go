package publish

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/aysfs/aysfs/src/object"
)

// On ext4 the directories of publishes are spread over the disk; elsewhere there is
// nothing to ask for, and no harm in asking.
func TestSpread(t *testing.T) {
	codec, err := object.NewCodec(1)
	must(t, err)
	for _, parent := range []string{os.TempDir(), "/dev/shm"} {
		dir, err := os.MkdirTemp(parent, "aysfs-test-")
		must(t, err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		for range 2 {
			s, err := openDirStore(t.Context(), dir, "default", codec)
			must(t, err)
			must(t, s.close())
		}
		f, err := os.Open(filepath.Join(dir, "default", ".tmp"))
		must(t, err)
		defer f.Close()
		var st unix.Statfs_t
		must(t, unix.Fstatfs(int(f.Fd()), &st))
		if st.Type != unix.EXT4_SUPER_MAGIC {
			continue
		}
		if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err != nil || flags&topDir == 0 {
			t.Errorf("%s: flags %x, %v", dir, flags, err)
		}
	}
}
