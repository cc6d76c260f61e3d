"""Networks, endpoints, address pools, published ports."""
