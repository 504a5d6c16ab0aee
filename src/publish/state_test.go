package publish

import (
	"testing"
	"time"
)

func TestSettled(t *testing.T) {
	now := time.Unix(1000, 0)
	at := func(mtimeSec, mtimeNsec, ctimeSec, ctimeNsec int64) identity {
		return identity{mtimeSec: mtimeSec, mtimeNsec: mtimeNsec, ctimeSec: ctimeSec, ctimeNsec: ctimeNsec}
	}
	for _, tt := range []struct {
		name string
		id   identity
		want bool
	}{
		{"just written", at(999, 990e6, 999, 990e6), false},
		{"written", at(999, 100e6, 999, 100e6), true},
		{"unpacked just now", at(500, 0, 999, 990e6), false},
		{"unpacked", at(500, 0, 999, 100e6), true},
		{"unpacked just now, whole seconds", at(500, 0, 999, 0), false},
		{"unpacked, whole seconds", at(500, 0, 997, 0), true},
		{"in an image", at(500, 0, 500, 0), false},
		{"in an image without times", at(0, 0, 0, 0), false},
		{"changed in the future", at(500, 0, 1001, 1), false},
	} {
		if got := tt.id.settled(now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
