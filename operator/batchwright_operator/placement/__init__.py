"""Where gated pods go, in kube-scheduler's words: demand, filter, scoring, receipts, binding; a cycle decides, the
reconciler acts. Everything but the reconciler is pure. Never evicts a pod."""
