package store

import (
	"context"
	"errors"
	"slices"

	"github.com/aysfs/aysfs/src/object"
	"github.com/aysfs/aysfs/src/tier"
)

// maxGap is how many serials without a head are looked at before a store that
// can't be listed is taken to have none that are older.
const maxGap = 200

// Past returns the serials below newest that a tree has heads of, highest first. In
// a store that can't be listed it looks for one after the other, down to the first
// that stop, if not nil, tells to be enough.
func Past(ctx context.Context, st Store, tree object.TreeName, newest int64, stop func(serial int64) bool) ([]int64, error) {
	if dir, ok := st.(*Dir); ok {
		all, err := dir.Serials(ctx, tree)
		if err != nil {
			return nil, err
		}
		slices.Reverse(all)
		return slices.DeleteFunc(all, func(s int64) bool { return s >= newest }), nil
	}
	var all []int64
	gap := 0
	for s := newest - 1; s >= 1 && gap < maxGap; s-- {
		if stop != nil && stop(s) {
			break
		}
		_, err := st.HeadAt(ctx, tree, s)
		switch {
		case errors.Is(err, tier.ErrAbsent):
			gap++
		case err != nil:
			return nil, err
		default:
			all, gap = append(all, s), 0
		}
	}
	return all, nil
}
