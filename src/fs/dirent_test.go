package fs

import (
	"bytes"
	"testing"
	"time"

	"github.com/jacobsa/fuse/fuseops"
	"github.com/jacobsa/fuse/fuseutil"

	"github.com/aysfs/aysfs/src/digest"
	"github.com/aysfs/aysfs/src/object"
)

// TestDirentPlus holds what is written against what the library writes of the same.
func TestDirentPlus(t *testing.T) {
	m := newMemory()
	f, err := New(Config{Path: "/nowhere", Log: m.log(t)}, m.view(t, dir{"x": "y"}), m)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abandon()
	for _, e := range []object.Entry{
		{Name: []byte("a"), Kind: object.File, Mode: 0o644, Size: 1234567, Mtime: 1_700_000_000_123_456_789, Digest: digest.Of([]byte("a"))},
		{Name: []byte("eight888"), Kind: object.File, Mode: 0o4755, Size: 0, Mtime: 0, Digest: digest.Of([]byte("b"))},
		{Name: []byte("dir"), Kind: object.Dir, Mode: 0o1777, Size: 512, Mtime: -1, Digest: digest.Of([]byte("c"))},
		{Name: bytes.Repeat([]byte("n"), 255), Kind: object.Symlink, Mode: 0o777, Size: 3, Mtime: -5_000_000_000, Target: []byte("to!")},
	} {
		d := fuseutil.Dirent{Offset: 77, Name: string(e.Name), Type: direntType(e.Kind)}
		got, want := make([]byte, 512), make([]byte, 512)
		n, err := f.writeDirentPlus(got, rootID, 5, e, d)
		if err != nil {
			t.Fatal(err)
		}
		p := fuseutil.DirentPlus{Dirent: d}
		if err := f.enter(&p.Entry, rootID, 5, &e); err != nil {
			t.Fatal(err)
		}
		p.Dirent.Inode = p.Entry.Child
		if k := fuseutil.WriteDirentPlus(want, p); k != n {
			t.Errorf("%.10q: %d bytes, want %d", e.Name, n, k)
		}
		// How long it is valid is another time.
		for _, b := range [][]byte{got, want} {
			clear(b[16:40])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%.10q:\n%x, want\n%x", e.Name, got[:n], want[:n])
		}
		if k, _ := f.writeDirentPlus(got[:n-1], rootID, 5, e, d); k != 0 {
			t.Errorf("%.10q: %d bytes in less room", e.Name, k)
		}
		if held := f.table.held(); held > 5 {
			t.Errorf("%d inodes", held)
		}
	}
	bare := make([]byte, 512)
	n, _ := writeDirentPlusBare(bare, rootID, -1, object.Entry{}, fuseutil.Dirent{Offset: 1, Inode: rootID, Name: ".", Type: fuseutil.DT_Directory})
	op := &fuseops.ReadDirPlusOp{ReadDirOp: fuseops.ReadDirOp{Dst: bare, BytesRead: n}}
	undoDirents(op, func(id, n uint64) { t.Errorf("%d lookups of inode %d", n, id) })
	if time.Until(forever) < 100*365*24*time.Hour {
		t.Error("the kernel would ask again")
	}
}
