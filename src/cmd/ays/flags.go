package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/aysfs/aysfs/src/object"
)

// flags returns an empty flag set whose help tells how to call the command.
func (c *call) flags() *flag.FlagSet {
	fs := flag.NewFlagSet(c.command.name, flag.ContinueOnError)
	fs.SetOutput(c.stderr)
	fs.Usage = func() {
		line := "usage: ays " + c.command.name + " [FLAGS] " + c.command.args
		fmt.Fprintf(fs.Output(), "%s\n  %s\n", strings.TrimSpace(line), c.command.summary)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads the arguments: flags, then as many others as the command takes.
// If ok is false the command is over, with the exit code.
func (c *call) parse(fs *flag.FlagSet, args []string) (rest []string, code int, ok bool) {
	for _, a := range args {
		if a == "-h" || a == "-help" || a == "--help" {
			fs.SetOutput(c.stdout)
		}
	}
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil, exitOK, false
	}
	if err != nil {
		return nil, exitFailed, false // Parse has told
	}
	want := len(strings.Fields(c.command.args))
	if got := fs.NArg(); got < want {
		return nil, c.fail(fmt.Errorf("missing %s; \"ays %s -h\" tells how to call it", c.command.args, c.command.name)), false
	} else if got > want {
		return nil, c.fail(fmt.Errorf("unexpected argument %q; flags come first", fs.Arg(want))), false
	}
	return fs.Args(), exitOK, true
}

// fail tells why the command could not do its work.
func (c *call) fail(err error) int {
	fmt.Fprintf(c.stderr, "ays %s: %v\n", c.command.name, err)
	return exitFailed
}

// printJSON writes v as JSON that people can read, too.
func (c *call) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// treeFlags are the flags that name a tree.
func treeFlags(fs *flag.FlagSet) *object.TreeName {
	t := &object.TreeName{}
	fs.StringVar(&t.ID, "id", "", "`ays.id` of the tree: 'domain|name(version)' or 'domain|name!instance'")
	fs.StringVar(&t.RepoID, "repoid", "", "`ays.repoid` of the tree, if it belongs to a repo")
	fs.StringVar(&t.Platform, "platform", "", "`platform` of the tree; without, it is for every platform")
	return t
}
