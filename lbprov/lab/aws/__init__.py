"""AWS on this machine: moto as a real HTTP server in its own process, and a small network to put nodes in.

`server.MotoServer` starts and stops it, `world.AwsWorld` furnishes it, `strict` makes it refuse what AWS
refuses. Needs the extra `lbprov[demo]`.
"""
