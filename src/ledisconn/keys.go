package ledisconn

import (
	"strings"

	"github.com/aysfs/aysfs/src/object"
)

// What the names of hashes begin with.
const (
	FilesPrefix = "files:"
	TreePrefix  = "md:"
)

// FilesKey is the hash of a domain's blobs.
func FilesKey(domain string) string { return FilesPrefix + domain }

// TreeKey is the hash of a tree.
func TreeKey(tree object.TreeName) string {
	return TreePrefix + strings.TrimPrefix(tree.Dir(), "md/")
}
