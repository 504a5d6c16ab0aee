package debug

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// What a mode says of its file, as in st_mode. Other kinds are not recorded.
const (
	ModeKind = 0o170000
	ModeFile = 0o100000
	ModeDir  = 0o040000
	ModeLink = 0o120000
	ModePerm = 0o007777
)

// EmptyMD5 is the MD5 of no bytes, and so of a directory.
const EmptyMD5 = "d41d8cd98f00b204e9800998ecf8427e"

const (
	maxPath = 4096
	maxName = 255
)

// ErrFormat says that redis has something that is not as the layout wants it.
var ErrFormat = errors.New("not as the debug layout wants it")

// Change is what became of one path.
type Change struct {
	Path string // relative to the mount's root, bytes
	MD5  string // of the content; empty: it was removed
	Size int64  // of the content, in bytes
	Mode uint32 // st_mode; 0: as in the tree, or a plain file of 0644
}

// Removed tells that the path is no more.
func (c Change) Removed() bool { return c.MD5 == "" }

// Kind is ModeFile, ModeDir or ModeLink. What has no mode is a file.
func (c Change) Kind() uint32 {
	if c.Mode&ModeKind == 0 {
		return ModeFile
	}
	return c.Mode & ModeKind
}

// value is what debug:paths has.
func (c Change) value() string {
	switch {
	case c.Removed():
		return ",0"
	case c.Mode == 0:
		return c.MD5 + "," + strconv.FormatInt(c.Size, 10)
	}
	return c.MD5 + "," + strconv.FormatInt(c.Size, 10) + "," + strconv.FormatUint(uint64(c.Mode), 8)
}

// parseChange reads what debug:paths has of path. Its errors are ErrFormat.
func parseChange(path, value string) (Change, error) {
	c := Change{Path: path}
	err := CheckPath(path)
	fields := strings.Split(value, ",")
	if err == nil && (len(fields) < 2 || len(fields) > 3) {
		err = errors.New(`neither "md5,size" nor "md5,size,mode"`)
	}
	if err == nil {
		c.MD5 = fields[0]
		if c.Size, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
			err = errors.New("the size is no number")
		}
	}
	if err == nil && len(fields) == 3 {
		var mode uint64
		if mode, err = strconv.ParseUint(fields[2], 8, 32); err != nil {
			err = errors.New("the mode is no octal number")
		}
		c.Mode = uint32(mode)
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return Change{Path: path}, fmt.Errorf("path %.300q, %.100q: %w: %w", path, value, ErrFormat, err)
	}
	if c.Removed() {
		c.Mode = 0
	}
	return c, nil
}

// check looks at all but the path.
func (c Change) check() error {
	switch {
	case c.Size < 0:
		return errors.New("the size is negative")
	case c.Removed():
		if c.Size != 0 {
			return errors.New("it has no MD5, but a size")
		}
		return nil
	case !isMD5(c.MD5):
		return errors.New("the MD5 is not 32 digits of lower-case hex")
	case (c.MD5 == EmptyMD5) != (c.Size == 0):
		return errors.New("the size does not go with the MD5")
	case c.Mode&^(ModeKind|ModePerm) != 0:
		return errors.New("the mode is none")
	}
	switch c.Mode & ModeKind {
	case ModeFile, ModeLink:
	case ModeDir:
		if c.Size != 0 {
			return errors.New("a directory has no content")
		}
	case 0:
		if c.Mode != 0 {
			return errors.New("the mode does not tell the kind of file")
		}
	default:
		return errors.New("it is neither file nor directory nor symlink")
	}
	return nil
}

func isMD5(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// CheckPath tells what is wrong with a path, if it is not one that is relative
// to a mount's root and stays below it.
func CheckPath(path string) error {
	switch {
	case path == "":
		return errors.New("it is empty")
	case len(path) > maxPath:
		return fmt.Errorf("it has %d bytes, more than %d", len(path), maxPath)
	case strings.Contains(path, "\x00"):
		return errors.New("it has a NUL in it")
	case path[0] == '/':
		return errors.New("it is absolute")
	}
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "":
			return errors.New("it has an empty name in it")
		case name == "." || name == "..":
			return fmt.Errorf("it has %q in it", name)
		case len(name) > maxName:
			return fmt.Errorf("it has a name of %d bytes in it, more than %d", len(name), maxName)
		}
	}
	return nil
}
