package pull

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"

	"github.com/aysfs/aysfs/src/debug"
)

// past is what was pulled into a directory, by path.
type past map[string]pulled

// pulled is what a path was when it was last pulled: there, and, but for the
// permissions, here as well. What was set beside counts as pulled, too.
type pulled struct {
	MD5  string // empty: it was removed
	Mode uint32 // as in redis
	Perm uint32 // of what was here then
}

func (p pulled) change() debug.Change { return debug.Change{MD5: p.MD5, Mode: p.Mode} }

// is tells whether it is still so there, but for the mode.
func (p pulled) is(c debug.Change) bool {
	return p.MD5 == c.MD5 && (c.Removed() || p.change().Kind() == c.Kind())
}

// left tells whether it is still so here.
func (p pulled) left(l local) bool {
	const x = 0o111 // the others are for the umask to say
	return l.is(p.change()) && (l.kind != debug.ModeFile || l.perm&x == p.Perm&x)
}

// pastEntry is one of the file's.
type pastEntry struct {
	Path debug.JSONPath `json:"path"`
	MD5  string         `json:"md5"`
	Mode uint32         `json:"mode,omitempty"`
	Perm uint32         `json:"perm,omitempty"`
}

// pastName is what the file of a mount is called.
func pastName(mount string) string { return "pulled-" + url.PathEscape(mount) + ".json" }

func (w *worktree) readPast() (past, error) {
	all := make(past)
	raw, err := w.root.ReadFile(w.past)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was pulled before: %w", err)
	}
	var entries []pastEntry
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%s/%s does not say what was pulled before (%w): remove it, and what git does not know will count as changed here", w.dir, w.past, err)
	}
	for _, e := range entries {
		all[string(e.Path)] = pulled{e.MD5, e.Mode, e.Perm}
	}
	return all, nil
}

func (w *worktree) writePast(all past) error {
	entries := make([]pastEntry, 0, len(all))
	for path, p := range all {
		entries = append(entries, pastEntry{debug.JSONPath(path), p.MD5, p.Mode, p.Perm})
	}
	raw, err := json.Marshal(entries)
	if err == nil {
		err = w.root.RemoveAll(newName)
	}
	if err == nil {
		err = w.root.WriteFile(newName, raw, 0o644)
	}
	if err == nil {
		err = w.root.Rename(newName, w.past)
	}
	if err != nil {
		return fmt.Errorf("remember what was pulled: %w", err)
	}
	return nil
}
