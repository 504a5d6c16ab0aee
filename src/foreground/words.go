package foreground

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
)

// Exit codes of a command line that is answered.
const (
	exitOK    = 0
	exitUsage = 2
)

// Program is a daemon's program.
type Program struct {
	Name            string
	Version, Commit string
	Config          string // path of its config where no other one is named
	Purpose         string // what is done with what the config names, as in "mounted"

	Stdout, Stderr io.Writer
}

// Words are what a program is to do.
type Words struct {
	Config  string // path
	Check   bool   // no more than to check it
	Command string // one of those that Parse was told of, or empty
}

// Parse reads a command line, which begins with what the program was called by.
// Besides flags it may have one of some commands. It is not ok where nothing is left to do but to exit with code:
// what is wrong, or was asked for, is said then.
func (p Program) Parse(args, commands []string) (w Words, code int, ok bool) {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(p.Stderr)
	flags.StringVar(&w.Config, "config", p.Config, "the config `file`")
	flags.BoolVar(&w.Check, "check", false, "check the config, say what would be "+p.Purpose+", and exit with 0 or 2")
	show := flags.Bool("version", false, "print the version")
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return w, exitOK, false
	case err != nil: // which flags has told
		return w, exitUsage, false
	case *show:
		fmt.Fprintf(p.Stdout, "%s %s (%s)\n", p.Name, p.Version, p.Commit)
		return w, exitOK, false
	case flags.NArg() == 1 && slices.Contains(commands, flags.Arg(0)):
		w.Command = flags.Arg(0)
	case flags.NArg() > 0:
		fmt.Fprintf(p.Stderr, "%s: %q is not understood; all is set in the config, see %s -help\n", p.Name, flags.Args(), p.Name)
		return w, exitUsage, false
	}
	return w, exitOK, true
}
