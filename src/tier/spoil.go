//go:build !race

package tier

// spoil does something in tests only: see spoil_race.go.
func spoil([]byte) {}
