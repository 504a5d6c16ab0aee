package pull

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// git tells of which files git has the content.
type git struct{ dir string }

// clean tells that git can give the file back as it is now. Where there is no git,
// or no work tree, it can't. It is asked for each file, right before that is
// replaced: somebody works here.
func (g git) clean(ctx context.Context, path string) bool {
	// -v tells files apart that git was told not to look at.
	cmd := exec.CommandContext(ctx, "git", "--literal-pathspecs", "-C", g.dir, "ls-files", "-z", "-v", "--cached", "--modified", "--", path)
	// Called from a hook it would look at another repository than ours.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GIT_") })
	out, err := cmd.Output()
	return err == nil && string(out) == "H "+path+"\x00"
}
