package fs

import (
	"context"
	"encoding/binary"
	"reflect"
	"unsafe"

	"github.com/jacobsa/fuse/fuseops"
)

// The answer to an open, by include/uapi/linux/fuse.h. The library has no name
// for the flag that spares the flush of a file that was only read, which is half
// of what opening and closing such a file costs. Kernels before 5.16 ignore it.
const (
	openKeepCache = 1 << 1
	openNoFlush   = 1 << 5
)

// withoutFlush makes the library's answer to an open, of whatever ctx came with
// it, one without a handle that keeps the page cache and asks for no flush. What
// the library writes depends on the op that it finds in the context: there it
// finds one whose answer is bytes of ours. Were the library to keep its ops in
// another way, the answer would be its own, and files flushed.
func withoutFlush(ctx context.Context) context.Context { return flagged{ctx} }

type flagged struct{ context.Context }

var readOnlyOpened = func() *fuseops.ReadSymlinkOp {
	var out [16]byte // fh, open_flags, padding
	binary.NativeEndian.PutUint32(out[8:], openKeepCache|openNoFlush)
	return &fuseops.ReadSymlinkOp{Target: string(out[:])}
}()

func (c flagged) Value(key any) any {
	v := c.Context.Value(key)
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Struct {
		return v
	}
	if f, ok := t.FieldByName("op"); !ok || f.Type.Kind() != reflect.Interface || f.Type.NumMethod() != 0 {
		return v
	}
	state := reflect.New(t).Elem()
	state.Set(reflect.ValueOf(v))
	op := state.FieldByName("op")
	*(*any)(unsafe.Pointer(op.UnsafeAddr())) = readOnlyOpened
	return state.Interface()
}
