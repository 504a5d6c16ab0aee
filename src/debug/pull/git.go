package pull

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// git tells of which files git has the content. It is asked once, when somebody
// wants to know.
type git struct {
	dir   string
	asked bool
	has   map[string]bool
}

// clean tells that git can give the file back as it is. Where there is no git,
// or no work tree, it can't.
func (g *git) clean(ctx context.Context, path string) bool {
	if !g.asked {
		g.asked = true
		g.has = make(map[string]bool)
		tracked, err := g.files(ctx)
		if err != nil {
			return false
		}
		modified, err := g.files(ctx, "--modified")
		if err != nil {
			return false
		}
		for _, p := range tracked {
			g.has[p] = true
		}
		for _, p := range modified {
			delete(g.has, p)
		}
	}
	return g.has[path]
}

func (g *git) files(ctx context.Context, args ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", g.dir, "ls-files", "-z"}, args...)...)
	// Called from a hook it would look at another repository than ours.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
	out, err := cmd.Output()
	return strings.Split(string(out), "\x00"), err
}
