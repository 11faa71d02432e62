"""The organisation's configuration, recipients, locations and tenure, kept in etcd."""
