package foreground

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/aysfs/aysfs/src/service"
)

// Exit codes.
const (
	exitOK    = 0
	exitUsage = 2 // or the config is wrong
)

// Program is a daemon's program. C is its config.
type Program[C any] struct {
	Name            string
	Version, Commit string
	File            string // path of its config's file where no other one is named
	Purpose         string // what is done with what the config names, as in "mounted"

	Load     func(file string) (C, error)
	Describe func(w io.Writer, cfg C)       // says what would be done
	Command  func(command, file string) int // does one of service.Commands, and returns the exit code
	Words    []string                       // besides these commands, what the program may be told
	Stdout   io.Writer
	Stderr   io.Writer
}

// Call is what a program is to do.
type Call[C any] struct {
	Config C
	File   string // path of the config's file
	Word   string // one of the program's, or empty
}

// Begin reads a command line, which begins with what the program was called by, and
// the config. It is not ok where all is done then, and nothing is left but to exit
// with code: what is wrong, or was asked for, has been said.
func (p *Program[C]) Begin(args []string) (c Call[C], code int, ok bool) {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(p.Stderr)
	flags.StringVar(&c.File, "config", p.File, "the config `file`")
	check := flags.Bool("check", false, "check the config, say what would be "+p.Purpose+", and exit with 0 or 2")
	show := flags.Bool("version", false, "print the version")
	flags.Usage = func() {
		fmt.Fprintf(p.Stderr, "usage: %s [FLAGS] [%s]\nWithout a command it runs in the foreground.\n", p.Name, strings.Join(service.Commands, "|"))
		flags.PrintDefaults()
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return c, exitOK, false
	} else if err != nil { // which was said
		return c, exitUsage, false
	}
	if *show {
		fmt.Fprintf(p.Stdout, "%s %s (%s)\n", p.Name, p.Version, p.Commit)
		return c, exitOK, false
	}
	if flags.NArg() > 0 {
		c.Word = flags.Arg(0)
		switch {
		case flags.NArg() == 1 && service.IsCommand(c.Word):
			return c, p.Command(c.Word, c.File), false
		case flags.NArg() > 1 || !slices.Contains(p.Words, c.Word):
			fmt.Fprintf(p.Stderr, "%s: %q is not understood; all is set in the config, see %s -help\n", p.Name, flags.Args(), p.Name)
			return c, exitUsage, false
		}
	}
	var err error
	if c.Config, err = p.Load(c.File); err != nil {
		fmt.Fprintln(p.Stderr, err)
		return c, exitUsage, false
	}
	if *check {
		p.Describe(p.Stdout, c.Config)
		return c, exitOK, false
	}
	return c, exitOK, true
}
