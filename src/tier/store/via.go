package store

import "context"

// ViaHeader names the caches that a request came through, by the ids that they
// go by, first to last with commas between them. One that finds its own id there
// answers 508: stores that ask each other would otherwise never end.
const ViaHeader = "Aysfs-Via"

type viaKey struct{}

// WithVia returns a ctx whose requests say that they came via these caches. It
// stays with what is done for that request and nothing else.
func WithVia(ctx context.Context, via string) context.Context {
	return context.WithValue(ctx, viaKey{}, via)
}

func viaOf(ctx context.Context) string {
	via, _ := ctx.Value(viaKey{}).(string)
	return via
}
