module batchwright.dev/e2e/faultproxy

go 1.24
