// Package metrics writes metrics in Prometheus' text format:
// https://prometheus.io/docs/instrumenting/exposition_formats/
package metrics
