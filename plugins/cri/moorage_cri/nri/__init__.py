"""The Node Resource Interface: plugins that see, and adjust, what pods and containers are made of.

Source: the NRI's protocol, `nri.pkg.api.v1alpha1`, over ttrpc on one multiplexed Unix socket a plugin.
"""
