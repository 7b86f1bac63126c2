"""etcd, API server, controllers: started, asked and audited."""
