package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
)

// maxProblems is how many of a tree's problems are told before a publish gives
// up looking for more.
const maxProblems = 20

// TreeError says what in a tree could not be read. Nothing was published.
type TreeError struct {
	Problems []error // one for each file or directory, at most maxProblems
	Stopped  bool    // there may be more: reading ended with the last of them
}

func (e *TreeError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems in the tree", len(e.Problems))
	if e.Stopped {
		b.WriteString(", and maybe more")
	}
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "; %v", p)
	}
	return b.String()
}

func (e *TreeError) Unwrap() []error { return e.Problems }

// NotWholeError says how many things a tree has that would not be published as
// they are. The log has told each. Nothing was published.
type NotWholeError struct{ Warnings int64 }

func (e *NotWholeError) Error() string {
	return fmt.Sprintf("%d warnings: not all of the tree would be published as it is", e.Warnings)
}

// errTooMany ends a publish early.
var errTooMany = errors.New("too many problems in the tree")

// problems collects what of a tree can't be read.
type problems struct {
	mu   sync.Mutex
	list []error
}

// add returns errTooMany when there is no use in going on.
func (p *problems) add(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("vanished while the tree was read")
	}
	// The path as it is in the tree, quoted: names may hold anything. The
	// system's own mention of it would only repeat that.
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = fmt.Errorf("%s: %w", pe.Op, pe.Err)
	}
	if path == "" {
		path = "."
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, fmt.Errorf("%q: %w", path, err))
	if len(p.list) >= maxProblems {
		return errTooMany
	}
	return nil
}

// err is nil for a tree without problems.
func (p *problems) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.list) == 0 {
		return nil
	}
	return &TreeError{Problems: p.list, Stopped: len(p.list) >= maxProblems}
}
