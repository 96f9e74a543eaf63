"""A search for good options: trials in processes of their own, kept in a storage of Optuna's."""
