package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many symlinks a path may lead through, as the kernel has it.
const maxLinks = 40

// Path is where path of the image below root lies here. Symlinks are followed as they
// are in the image, and never lead out of root. What is not there yet is left as it
// is written. It is for images that nobody changes meanwhile.
func Path(root, path string) (string, error) {
	var at string // below root, without symlinks
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir("/" + at)[1:]
			continue
		}
		next := filepath.Join(at, name)
		target, err := os.Readlink(filepath.Join(root, next))
		switch {
		case err == nil:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s in %s: too many symlinks", path, root)
			}
			if strings.HasPrefix(target, "/") {
				at = ""
			}
			rest = append(strings.Split(target, "/"), rest...)
		case notLink(err):
			at = next
		default:
			return "", fmt.Errorf("%s in %s: %w", path, root, err)
		}
	}
	return filepath.Join(root, at), nil
}

// notLink tells whether a link could not be read because it is none.
func notLink(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
