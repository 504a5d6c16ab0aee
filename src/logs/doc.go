// Package logs makes the daemons' logs as their configs say.
package logs
