package object

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// DefaultDomain is how the empty dedupe domain is written in keys, paths and
// URLs.
const DefaultDomain = "default"

// AnyPlatform is how the empty platform is written in paths and URLs.
const AnyPlatform = "any"

var (
	domainRE   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	platformRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	repoRE     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	idRE       = regexp.MustCompile(`^[^|()!]+\|[^|()!]+(\([^|()!]+\)|![^|()!]+)$`)
)

// reserved are the first path segments that routes use.
var reserved = map[string]bool{"md": true, "ays": true, "metrics": true, "healthz": true, "debug": true}

// ValidateDomain tells what is wrong with the name of a dedupe domain. The
// empty name is right, and means DefaultDomain.
func ValidateDomain(d string) error {
	switch {
	case d == "":
		return nil
	case reserved[d]:
		return fmt.Errorf("%q can't be a dedupe domain: a route has that name", d)
	case !domainRE.MatchString(d):
		return fmt.Errorf("%q can't be a dedupe domain: use up to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit", d)
	}
	return nil
}

// DomainOrDefault is the written form of a domain's name.
func DomainOrDefault(d string) string {
	if d == "" {
		return DefaultDomain
	}
	return d
}

// TreeName names a published tree.
type TreeName struct {
	ID       string // ays.id: domain|name(version) or domain|name!instance
	RepoID   string // ays.repoid, empty for template trees
	Platform string // empty for a tree that suits every platform
}

// maxID keeps an id within a file name.
const maxID = 255

// PublishedStore is what a cache calls the store that it is itself, of what is
// published to it.
const PublishedStore = "published"

// TreesFile is the file below a store's md that lists its trees. No repo can be
// called so.
const TreesFile = "trees"

// Validate tells what is wrong with the name.
func (n TreeName) Validate() error {
	if err := validateID(n.ID); err != nil {
		return err
	}
	if n.RepoID == TreesFile {
		return fmt.Errorf("repo id %q: stores have a file of that name where the repo's directory would be", n.RepoID)
	}
	if n.RepoID != "" && !repoRE.MatchString(n.RepoID) {
		return fmt.Errorf("repo id %q: use up to 128 letters, digits, '.', '_' and '-', starting with a letter or digit", n.RepoID)
	}
	if n.Platform != "" && !platformRE.MatchString(n.Platform) {
		return fmt.Errorf("platform %q: use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit", n.Platform)
	}
	if n.Platform == AnyPlatform {
		return fmt.Errorf("platform %q is how no platform is written: leave the platform empty", n.Platform)
	}
	return nil
}

func validateID(id string) error {
	if len(id) > maxID {
		return fmt.Errorf("ays.id of %d bytes: at most %d", len(id), maxID)
	}
	if !idRE.MatchString(id) {
		return fmt.Errorf("ays.id %q: want domain|name(version), such as jumpscale|mongodb(10.1.888), or domain|name!instance, such as jumpscale|mongodb!main", id)
	}
	for _, r := range id {
		if r < 0x20 || r == 0x7f || r == '/' || r == '\\' || r == '\ufffd' {
			return fmt.Errorf("ays.id %q: %q can't be part of it", id, r)
		}
	}
	if strings.HasPrefix(id, ".") {
		return fmt.Errorf("ays.id %q: must not start with a dot", id)
	}
	return nil
}

// Dir is the directory of the tree's heads below a store's root: with '/'
// between segments and nothing escaped.
func (n TreeName) Dir() string { return n.join(func(s string) string { return s }) }

// URLPath is Dir with each segment escaped.
func (n TreeName) URLPath() string { return n.join(url.PathEscape) }

func (n TreeName) join(esc func(string) string) string {
	platform := n.Platform
	if platform == "" {
		platform = AnyPlatform
	}
	if n.RepoID == "" {
		return "md/" + esc(n.ID) + "/" + esc(platform)
	}
	return "md/" + esc(n.RepoID) + "/" + esc(n.ID) + "/" + esc(platform)
}

// String names the tree in logs and messages.
func (n TreeName) String() string {
	s := n.ID
	if n.RepoID != "" {
		s = n.RepoID + "/" + s
	}
	if n.Platform != "" {
		s += "@" + n.Platform
	}
	return s
}

// ParseTreeDir reads what Dir wrote.
func ParseTreeDir(dir string) (TreeName, error) {
	parts := strings.Split(dir, "/")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "md" {
		return TreeName{}, fmt.Errorf("%q is not the directory of a tree's heads", dir)
	}
	n := TreeName{ID: parts[len(parts)-2], Platform: parts[len(parts)-1]}
	if len(parts) == 4 {
		n.RepoID = parts[1]
	}
	if n.Platform == AnyPlatform {
		n.Platform = ""
	}
	if err := n.Validate(); err != nil {
		return TreeName{}, err
	}
	if n.Dir() != dir {
		return TreeName{}, fmt.Errorf("%q is not how the directory of %v's heads is written", dir, n)
	}
	return n, nil
}
