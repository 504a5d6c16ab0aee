package publish_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/publish"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// childEnv makes the test binary publish instead of testing, so that there is a
// process to kill: its value is the store, childRoot's the directory.
const (
	childEnv  = "AYSFS_TEST_PUBLISH_STORE"
	childRoot = "AYSFS_TEST_PUBLISH_ROOT"
)

func TestMain(m *testing.M) {
	if store := os.Getenv(childEnv); store != "" {
		_, err := publish.Run(context.Background(), publish.Options{
			Store: store, Root: os.Getenv(childRoot), Tree: object.TreeName{ID: testID},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
